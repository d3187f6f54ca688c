"""MSR-VTT: find a short web video by a caption of it, and captions by a video.

::

    files       where the files of a release lie in a user's folders
    captions    lists of videos and captions, as they circulate
    speech      transcripts in three simple forms
    prepare     all of it -> a dataset store
    protocols   what the variants compare
    ideal       what an ideal retriever gets, where captions are equal
    task        the task ``msrvtt`` in its variants
    generate    writes the source files of the sample
    sample      the task ``msrvtt/sample``
"""

from __future__ import annotations

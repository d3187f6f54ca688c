"""The generated sample: small videos of shapes, text and sound, in MultiVENT's official layout.

::

    facts       what a video shows and says, and when it satisfies a query
    vocabulary  the closed vocabularies, in five languages
    phrases     facts -> spoken text, on-screen lines, descriptions, query texts
    videos      draws the videos of both splits
    queries     draws the queries of a split
    render      facts -> frames and sound;  encode: frames and sound -> mp4 and m4a
    generate    writes the source folder
    generated   what generated tasks share: made when first used, read like a release
    task        the task ``multivent/sample``
"""

from __future__ import annotations

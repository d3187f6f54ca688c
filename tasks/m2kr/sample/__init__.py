"""The generated miniature of M2KR: pictures of coloured shapes, and passages about them.

::

    draw      draws pictures, passages and questions of both splits
    generate  writes them in M2KR's official layout
    task      the task ``m2kr/sample``
"""

from __future__ import annotations

"""MultiVENT: videos of news events in several languages."""

from __future__ import annotations

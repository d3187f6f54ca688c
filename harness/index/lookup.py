"""Finds single documents of a store by their ids."""

from __future__ import annotations

from collections.abc import Iterable

from harness.errors import StorageError, UsageError
from harness.index.shards import DamageError
from harness.index.store import EmbeddingStore
from harness.late_interaction import TokenEmbeddings


class Lookup:
    """The documents of a store by id.

    Parameters
    ----------
    store
        A store that is filled.
    """

    def __init__(self, store: EmbeddingStore) -> None:
        self._shards = store.shards
        self._places = {
            id_: (number, place)
            for number, shard in enumerate(store.shards)
            for place, id_ in enumerate(shard.manifest.ids)
        }

    def read(self, ids: Iterable[str]) -> dict[str, TokenEmbeddings]:
        """Return the embeddings of each document; only the shards that hold them are opened.

        Raises
        ------
        UsageError
            If the store has no such document.
        StorageError
            If a shard was damaged since it was checked.
        """
        wanted: dict[int, list[tuple[str, int]]] = {}
        for id_ in dict.fromkeys(ids):
            if id_ not in self._places:
                raise UsageError(f"no document {id_!r} was indexed: name one that was.")
            number, place = self._places[id_]
            wanted.setdefault(number, []).append((id_, place))
        found: dict[str, TokenEmbeddings] = {}
        for number, rows in wanted.items():
            shard = self._shards[number]
            try:
                embeddings = shard.embeddings()
            except DamageError as error:
                raise StorageError(
                    f"{shard.path} was damaged while it was in use ({error}): give the same "
                    "command again; only its documents are encoded anew."
                ) from error
            found.update((id_, embeddings[place : place + 1]) for id_, place in rows)
        return found

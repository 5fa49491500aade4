"""The generation's quantizer in the snapshot store: the first one that is published is everybody's.

<codes topic>/<SHA-256>.quantizer     the centroids, a file of arrays
<codes topic>/quantizer.json          which of them counts; created once, never changed
"""

from __future__ import annotations

from typing import Final

import numpy as np
import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import ObjectStore
from pydantic import ValidationError

from index_sync.array_file import read_arrays, write_arrays
from index_sync.checkpoint import FileEntry
from index_sync.faiss_quantizer import CoarseQuantizer
from index_sync.store_files import put_file, read_file, store_errors
from pinstream.errors import CorruptStateError

_KIND: Final = "quantizer"
_MAX_POINTER_BYTES: Final = 4096


class QuantizerStore:
    """One generation's quantizer. Every method blocks; any thread.

    Raises:
        RetryableError: from every method: the store is away. Try again.
        FatalError: from every method: the store refuses us.
        CorruptStateError: from every method: what is stored is damaged. Remove both files, and one is trained again.
    """

    def __init__(self, store: ObjectStore, topic: str, bits: int) -> None:
        self._store = store
        self._prefix = f"{topic}/"
        self._pointer = f"{topic}/quantizer.json"
        self._bits = bits

    def load(self) -> CoarseQuantizer | None:
        """The quantizer that counts; None if none was published."""
        with store_errors("read the quantizer"):
            try:
                size = obstore.head(self._store, self._pointer)["size"]
                if size > _MAX_POINTER_BYTES:
                    raise CorruptStateError(f"{self._pointer} has {size} bytes, expected at most {_MAX_POINTER_BYTES}")
                content = bytes(obstore.get(self._store, self._pointer).bytes())
            except FileNotFoundError:
                return None
        try:
            entry = FileEntry.model_validate_json(content)
        except ValidationError as error:
            raise CorruptStateError(f"{self._pointer} can't be read: {error.errors()[0]['msg']}") from error
        arrays = read_arrays(read_file(self._store, self._prefix, _KIND, entry), _KIND, self._bits)
        centroid_CW = arrays.get("centroid")
        if centroid_CW is None or centroid_CW.dtype != np.uint8 or centroid_CW.shape[1:] != (self._bits // 8,):
            raise CorruptStateError(f"{self._pointer} names a file without centroids of {self._bits} bits")
        return CoarseQuantizer(centroid_CW.astype(np.uint8))

    def publish(self, quantizer: CoarseQuantizer) -> CoarseQuantizer:
        """Offer a quantizer; returns the one that counts, which may be another writer's."""
        arrays = {"centroid": quantizer.centroid_CW}
        entry = put_file(self._store, self._prefix, _KIND, write_arrays(_KIND, self._bits, arrays))
        with store_errors("publish the quantizer"):
            try:
                content = entry.model_dump_json().encode()
                obstore.put(self._store, self._pointer, content, mode="create", use_multipart=False)
            except AlreadyExistsError:
                pass
        return self.load() or quantizer

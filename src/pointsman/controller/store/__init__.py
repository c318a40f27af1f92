"""The store: the controller's state on disk. The only package that knows sqlite3."""

from pointsman.controller.store.core import Loaded, Store
from pointsman.controller.store.files import StoreError
from pointsman.controller.store.writer import KEPT_REPLIES

__all__ = ["KEPT_REPLIES", "Loaded", "Store", "StoreError"]

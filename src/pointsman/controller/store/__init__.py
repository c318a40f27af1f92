"""The store: the controller's state on disk. The only package that knows sqlite3."""

from pointsman.controller.store.files import StoreError
from pointsman.controller.store.snapshot import KEPT_REPLIES
from pointsman.controller.store.sqlite import Loaded, Store

__all__ = ["KEPT_REPLIES", "Loaded", "Store", "StoreError"]

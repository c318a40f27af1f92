"""Many models in one backend: functions that load a model by its id, and what has been loaded."""

"""What starts, stops and watches processes and gives them resources. It never touches a request.

``base`` is the seam: what the controller asks of any engine. ``folder`` is an instance's private folder; ``local``
raises an instance on this machine, from the driver; ``supervisor`` is its root process; ``link`` is the controller's
side of talking to the supervisor; ``spawn`` starts every other process of ours, and ``child`` is how that begins;
``relay`` tells those that cannot ask their cluster where the controller is.
"""

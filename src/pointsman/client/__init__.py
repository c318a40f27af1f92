"""The client of an instance: one class with one method per operation, put together from one module per subject.

start        starts an instance, or connects to one
capacity     what it may give to replicas
client       the class ``Client``: all operations, the instance's life, handles and status
endpoints    operations on endpoints and their traffic
rollouts     rollouts: started, read, waited for and controlled
backends     operations on backends, whose code is packed, checked and tried before it is registered
operations   sends commands and waits for their effect; statistics and status as plain dicts
keywords     errors that say where a misplaced keyword argument belongs
signals      SIGINT, SIGTERM and SIGHUP while this process waits for an instance
"""

from pointsman.client.client import Client

__all__ = ["Client"]

"""The client: one method per operation on an instance, by subject; all of them in one class for the user.

operations   the connection, and how a change is made and waited for
endpoints, traffic, backends   the operations
client   their sum, with the instance's life, handles and status
"""

from pointsman.client.client import Client

__all__ = ["Client"]

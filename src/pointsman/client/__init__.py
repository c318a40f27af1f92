"""The client: one method per operation on an instance, by subject; all of them in one class for the user.

start        starts an instance, or connects to one
client       the sum of all operations, with the instance's life, handles and status
endpoints    endpoints, and who answers their calls
backends     backends; their code is packed, looked at and tried before it is registered
operations   how a change is made and waited for; statistics and status as plain dicts
"""

from pointsman.client.client import Client

__all__ = ["Client"]

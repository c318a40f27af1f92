"""How our own processes talk: frames and messages (pure), the handshake (pure), and asyncio streams of them.

Everyone who sends or receives a call uses this package; it knows nothing of endpoints, policies or user code.
"""

"""How our own processes talk: frames and messages (pure), the handshake (pure), and streams of frames on asyncio.

All processes that send or receive calls use this package. It knows nothing of endpoints, policies or user code.
"""

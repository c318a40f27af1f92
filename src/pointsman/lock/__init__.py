"""Who may use an instance over the network, and what is asked of them. Users write it, HTTP servers ask it.

keys        API keys, kept as hashes
keyfile     API keys in a file
tokenfile   tokens of the console in a file
watching    reads files again that have changed
meters      rates and numbers of requests under way
origins     web pages: CORS
hosts       the names of this server, and the proxies before it
tls         certificates
"""

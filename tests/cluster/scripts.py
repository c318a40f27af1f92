"""Scripts whose instances are on a cluster: each is run with the address of the cluster."""

from __future__ import annotations

DRIVER = """
import sys, time
import pointsman as serve
http_options = {"port": 0, "location": "EveryNode"}
client = serve.start(engine="ray", address=sys.argv[1], http_options=http_options, metrics_export_port=0)
client.deploy("m", lambda request: __import__("os").getpid(), config={"num_replicas": 2})
pids = [str(replica["pid"]) for replica in client.status()["backends"]["m"]["replicas"]]
print(" ".join(["pids:", *pids, "end"]), flush=True)
time.sleep(600)
"""

DETACHED = """
import sys
import pointsman as serve
client = serve.start(True, engine="ray", name="kept", address=sys.argv[1], http_options={"port": 0},
                     metrics_export_port=None)
client.deploy("m", lambda request: "still here", route="/m")
"""

ORDERLY = """
import signal, sys, time
import pointsman as serve
client = serve.start(engine="ray", address=sys.argv[1], http_options={"port": 0}, metrics_export_port=None)

def takes_long(request):
    open(sys.argv[2], "w").close()
    time.sleep(2.5)
    return "finished"

client.deploy("long", takes_long, route="/long", ray_actor_options={"num_cpus": 0})
print("address:", client.http_address, flush=True)
client.wait()
print("returned", flush=True)
"""

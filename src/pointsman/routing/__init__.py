"""The router: a library inside every process that sends calls (ingress, driver, a replica that holds a handle).

Read in this order: ``call`` (what travels), ``router`` (table -> policy -> pool), ``pool`` (one backend's replicas and
queue), ``remote`` (one replica's connection), ``control`` (the link that brings tables from the controller).
"""

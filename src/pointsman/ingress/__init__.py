"""The HTTP front: ``server`` accepts, ``app`` matches the route and sends the call, ``codec`` turns HTTP into calls and
answers into HTTP. One process or several share the listening socket that the supervisor owns."""

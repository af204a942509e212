"""The whole API: the list of routers, health and metrics, documentation, problems and the OpenAPI document."""

"""The API as a whole: the list of routers, health and metrics, documentation, problems, the OpenAPI document."""

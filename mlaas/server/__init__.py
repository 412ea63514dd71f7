"""The MLaaS server: API v1, the published calls of the MLaaS4HEP server, web pages. It runs no job and no model itself."""

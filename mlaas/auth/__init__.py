"""Who is asking: tokens in, an `Identity` out. Nothing here knows HTTP frameworks, the database or the models."""

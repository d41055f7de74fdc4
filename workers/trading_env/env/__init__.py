"""The Gymnasium environments: one lane, many lanes, views, registration, pictures."""

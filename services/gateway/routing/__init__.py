"""The state behind routing: routes, drills, load and health of endpoints."""

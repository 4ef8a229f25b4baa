"""The installation of compose.yaml in real containers, with podman and docker-compose, from images built here."""

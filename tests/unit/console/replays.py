"""Questions to the page that replays a policy."""

PATH = "/api/v1/models/faq-de/replay"


STRICT = "triggers:\n- {name: slow, metric: ttft_ms, threshold: 100, min_requests: 20}\n"


def ask(world, client, policy, path=PATH, **more):
    headers = {"x-csrf-token": world.csrf(client)}
    return client.post(path, json={"policy": policy, **more}, headers=headers)

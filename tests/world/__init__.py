"""The world: all services on one bus in virtual time, and everything that can go wrong, drawn from one seed.

    python -m tests.world 7 --show     the story of seed 7: who did what when
    python -m tests.world 100-199      a hundred stories; those that went wrong are printed

| module | what it has |
|---|---|
| `jetstream` | NATS JetStream in memory: streams, buckets, and the client that the real adapters use |
| `bus` | the real `Bus` and its delivery rules, with consumers in memory |
| `process` | one life of a process: each request to the outside is a step at which it may die, wait or get no answer |
| `services`, `gateway`, `workers` | how each service is put together; the engines of workers take virtual time |
| `attached` | attached servers, of which two groups take turns |
| `person` | an operator, who approves and gives the orders of a seed |
| `fate` | the faults of a seed, and the chance of everything else |
| `world` | what outlives the processes, and what a fault does |
| `story` | one story from its first checkpoint to its end; `shrink` |
| `picture` | the lines of a story as a picture: a column for each process |
| `checks` | what must hold at every step, and at the end |
| `defects` | defects that are put in to see that the world finds them |

What has a thread elsewhere is done at once; no socket is opened. A story is the same in every process, byte by byte.
"""

"""Virtual-time simulation: the real control plane, many processes of it, and one seeded source of all disorder.

``chance`` decides, ``world`` schedules, ``fibers`` are the threads of the processes, ``ports`` is everything that leaves a
process (Redis, SQL, broker, clock), ``outside`` is what it talks to (provider, node agents, their callbacks), ``people``
submit, cancel and rerun, ``invariants`` is what must hold, ``shorten`` makes a failing run small enough to read.
"""

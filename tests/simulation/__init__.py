"""Virtual-time simulation: the real control plane, many processes of it, and one seeded source of all disorder.

``chance`` decides, ``world`` schedules, ``fibers`` are the threads of the processes, ``gate`` is where they pass when they
touch the outside, ``ports`` is what they touch (Redis, SQL, broker, clock), ``outside`` is what they talk to (provider,
node agents, their callbacks), ``people`` submit, cancel and rerun, ``invariants`` is what must hold, ``play`` runs a seed
and ``shorten`` makes a failing one small enough to read.
"""

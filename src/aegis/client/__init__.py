"""The typed clients of the daemon. Imports core only.

`launch` finds or starts the daemon of a home. `api` is the synchronous client that the faces use: it imports little, so that
a verb of the program is quick. `aio` is the asynchronous one for a user's own Python, exported as `aegis.Aegis`. Both raise
`AegisError` and nothing else for whatever the daemon refuses, and speak only to the socket of the home.

A single call is not retried: one that ended with `unreachable` may or may not have happened. A message sent with a `msg_id` of
your own can be sent again without harm, and a stream can be read on from its cursor; `lasting`, and `turn` in `aio`, do both
when the daemon dies.
"""

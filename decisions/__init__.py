"""Decisions that several parts share, as pure functions: no clock, no randomness, no I/O.

- `evidence`, `triggers`, `attribution`, `observation`, `open_blocks`, `block_tests`, `hard_failures`, `findings`,
  `alerts`, `observe_loop`: from requests to alerts, for the monitor and `slipway replay`.
- `rollback`, `route_edits`: whether an alert leads to a rollback, and how a route changes.
- `release_plan`, `variant_verdicts`: the steps of a release and the verdicts on its variants, for the registry and
  `slipway status` and `slipway show`.
- `policy_comparison`, `orders`, `drills`, `clocks`: whether a policy only tightens, whether an order is valid, whether
  a drill is in progress, whose clock is wrong.
"""

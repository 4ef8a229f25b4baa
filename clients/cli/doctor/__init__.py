"""What `slipway doctor` checks: facts about the machine and its servers, and a pure judgement of each."""

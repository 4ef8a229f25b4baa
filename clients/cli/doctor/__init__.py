"""The checks of `slipway doctor`: facts about the machine and its servers, and a pure judgement of each."""

"""Pure decisions of the gateway: which target answers, what a request asks for, what an answer looks like."""

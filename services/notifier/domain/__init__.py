"""Pure decisions of the notifier: what is sent to whom, when, and in which form."""

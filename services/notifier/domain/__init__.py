"""Pure decisions of the notifier: receivers, time and format of notices."""

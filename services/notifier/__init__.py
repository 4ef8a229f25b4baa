"""The notifier: sends alerts to the systems where people see them."""

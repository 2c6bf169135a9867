"""An order: reserve the goods, ask a payment provider, wait for its callback, ship; or give the goods back."""

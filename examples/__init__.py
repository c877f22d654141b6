"""Two sagas on real participants, and a demonstration that runs both: see order/ and payment/."""

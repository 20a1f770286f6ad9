"""Moving datasets: from the user's file into a volume and back, verified chunk by chunk."""

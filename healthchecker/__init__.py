"""pshcservcheck: keeps and checks a datanode's list of services. Imports ebb alone; nobody imports it."""

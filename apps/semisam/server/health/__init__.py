"""Whether the server can work: for containers, load balancers and monitoring, without a log-in and without names."""

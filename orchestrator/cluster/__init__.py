"""Files to copy and change: Kubernetes, `ray up`, Slurm, Prometheus and Grafana. README.md there walks through them."""

"""Access to etcd: endpoints, channels, the token of a user, the roles of a job, and the words of a refusal."""

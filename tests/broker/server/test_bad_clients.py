"""What a client must not do ends its own connection, in words, and nothing else."""




"""What tests share: commands in processes of their own, small data sets, trainings, damage, hosts."""

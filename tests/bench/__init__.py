"""The benchmark: the jobs that people do all day, done by Stratum and by what they would use instead."""

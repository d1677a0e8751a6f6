-- Five thousand small tables of one size, each with a key.
select format('create table t%s (id int primary key, note text); insert into t%1$s select id, body from generate_series(1, %s) id join texts on n = 1 + (id * 7 + %1$s) %% 20000',
  n, :mib * 1024 * 1024 / 250 / 5000)
from generate_series(1, 5000) n \gexec

-- Wide rows of numbers: twelve whole ones, twelve of double precision, eight exact ones; about 400 bytes as text.
select 'create table readings as select id, ' || string_agg(col, ', ') ||
  format(' from generate_series(1, %s) id', :mib * 1024 * 1024 / 300) from (
  select format('(hashint8(id * %s) %% %s)::int as i%1$s', 2 * n + 1, 10 ^ (n % 8 + 1)) from generate_series(1, 12) n
  union all select format('hashint8(id * %s)::float8 / 1e%s as f%1$s', 2 * n + 33, n % 6) from generate_series(1, 12) n
  union all select format('(hashint8(id * %s)::numeric / 1000)::numeric(18, 3) as n%1$s', 2 * n + 65) from generate_series(1, 8) n) columns (col) \gexec
alter table readings add primary key (id);

-- Large objects of a quarter of a MiB: text, which compresses, and beside it keys that do not.
select count(lo_from_bytea(0, convert_to(body, 'UTF8'))) from (
  select n, string_agg(body || md5((n * i)::text), e'\n') as body
  from generate_series(1, :mib * 4) n, generate_series(1, 1440) i join texts t on t.n = 1 + abs(hashint8(n * i)) % 20000 group by n) objects;

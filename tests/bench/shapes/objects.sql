-- Large objects of a quarter of a MiB: text, which compresses, and beside it keys that do not.
select count(lo_from_bytea(0, convert_to(body, 'UTF8'))) from (
  select o, string_agg(body || md5((o * i)::text), e'\n') as body
  from generate_series(1, :mib * 4) o cross join generate_series(1, 1440) i join texts t on t.n = 1 + abs(hashint8(o * i)) % 20000 group by o) objects;

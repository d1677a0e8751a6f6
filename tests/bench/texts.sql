-- Text as applications have it: sentences of words. Twenty thousand of them, to be put together into rows.
create table words (n int primary key, word text);
insert into words select n, (array['the','order','was','shipped','to','customer','from','warehouse','with','invoice','paid','late',
  'returned','item','blue','large','express','gift','discount','street','avenue','city','north','south'])[1 + n % 24] || (n % 97) from generate_series(0, 4095) n;
create function sentence(seed bigint, length int) returns text language sql stable as
  $$ select string_agg(word, ' ') from generate_series(1, length) i join words on words.n = abs(hashint8(seed * 31 + i)) % 4096 $$;
create table texts as select n, sentence(n, 18) as body from generate_series(1, 20000) n;

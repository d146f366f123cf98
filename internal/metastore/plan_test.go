package metastore
import ("testing";"os";"context";"fmt";"time";"strings")
func TestPlan(t *testing.T){
 ctx:=context.Background()
 var st Store; var err error
 ex:="EXPLAIN (ANALYZE, BUFFERS) "
 if os.Getenv("PLAN")==":memory:" { ex="EXPLAIN QUERY PLAN "; st,err=OpenSQLite(ctx,":memory:")} else {
 st,err=OpenPostgres(ctx, os.Getenv("PLAN")) }; if err!=nil{t.Fatal(err)}
 s:=st.(*store)
 if os.Getenv("SEED")!="" { t0:=time.Now(); if err:=Seed(ctx,st,300000,1000,0);err!=nil{t.Fatal(err)}; fmt.Println("seed",time.Since(t0)) }
 explain:=func(name,q string,args ...any){
  fmt.Println("==",name)
  err:=queries{s.r,s.dialect}.each(ctx,ex+q,args,func(r scanner)error{var l string; var x int; var e error
  if strings.HasPrefix(ex,"EXPLAIN Q") {e=r.Scan(&x,&x,&x,&l)} else {e=r.Scan(&l)}; fmt.Println(l); return e})
  if err!=nil{t.Fatal(err)}
 }
 for _,f:=range []CheckpointFilter{{Owner:"owner-0"},{Owner:"owner-0",Kind:KindTraining},{RunID:"session-0:train:0",Owner:"owner-0"},{RunID:"session-0:train:0",Kind:KindSampler,Owner:"owner-0"},{}} {
 fmt.Printf("\n###### %+v\n",f)
 f.Now=time.Now()
 if f.Owner!="" {
 c,a:=f.restricted()
	if f.RunID != "" { c, a = c+` AND owner = ?`, append(a, f.Owner) }
 explain("unswept",`SELECT created_at, id FROM checkpoints WHERE listed <> 0`+c+` AND expires_at <= ?`,append(a,micros(f.Now))...)
 }
 c,a:=f.selected()
 for _,off:=range []int{0,2000} {
 explain("page",`SELECT `+checkpointColumns+` FROM checkpoints JOIN (
				SELECT id AS page_id FROM checkpoints WHERE `+c+` AND (created_at, id) < (?, ?)
				ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?
			) page ON page_id = checkpoints.id
			ORDER BY created_at DESC, checkpoints.id DESC`,append(a,first.at,first.id,100,off)...)
 }
 }
 explain("blocks",`SELECT created_at, id, weights FROM checkpoint_blocks WHERE list = ? ORDER BY created_at DESC, id DESC`,"owner/owner-0")
 explain("block",`UPDATE checkpoint_blocks SET weights = weights + ?
		WHERE list = ? AND (created_at, id) = (
			SELECT created_at, id FROM checkpoint_blocks
			WHERE list = ? AND (created_at, id) <= (?, ?) ORDER BY created_at DESC, id DESC LIMIT 1)
		RETURNING created_at, id, weights + sampler_weights + external_weights`,1,"owner/owner-0","owner/owner-0",0,0)
 explain("expired",`SELECT id FROM checkpoints WHERE expires_at <= ? ORDER BY expires_at, id LIMIT ?`,0,10)
 explain("delete expired",`DELETE FROM checkpoints WHERE expires_at <= ? AND id IN (
			SELECT id FROM checkpoints WHERE expires_at <= ? ORDER BY expires_at, id LIMIT ?)`,0,0,10)
 explain("idle",`SELECT checkpoints.id FROM checkpoints
			JOIN runs ON runs.id = checkpoints.run_id
			JOIN sessions ON sessions.id = runs.session_id
			WHERE listed = 0 AND (finished_at < ? OR last_heartbeat < ?)
			ORDER BY checkpoints.id LIMIT ?`,0,0,10)
 explain("next",`SELECT MIN(expires_at) FROM checkpoints WHERE expires_at IS NOT NULL`)
	const newest = `
		SELECT (
			SELECT id FROM checkpoints
			WHERE run_id = runs.id AND kind = ? AND listed > 0 AND (expires_at IS NULL OR expires_at > ?)
			ORDER BY created_at DESC, id DESC LIMIT 1
		) FROM runs WHERE id IN `
explain("latest",`SELECT `+checkpointColumns+` FROM checkpoints WHERE id IN (`+
				newest+"(?,?)"+` UNION ALL `+newest+"(?,?)"+`)`,"weights",0,"session-0:train:0","session-1:train:0","sampler_weights",0,"session-0:train:0","session-1:train:0")
}

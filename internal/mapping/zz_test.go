package mapping_test
import ("testing";"runtime")
func TestProbe(t *testing.T){
 for _,x:=range []string{`claims.secret.replace("", claims.secret).size() > 1 ? "x":"y"`,`claims.secret.replace("h", claims.secret).replace("x","y").size() > 1 ? "x":"y"`,
 `[1,2,3,4,5,6,7,8,9,10].all(i, claims.secret.replace("", claims.secret).size() > 1) ? "x":"y"`, `claims.secret.split("").join(claims.secret).size()>1?"x":"y"`, `"%s%s".format([claims.secret,claims.secret])`, `claims.secret.split("").map(c, c+claims.secret).size()>1?"x":"y"`} {
  e,err:=env(t).String(x); if err!=nil {t.Log(x,err);continue}
  var a,b runtime.MemStats; runtime.ReadMemStats(&a)
  g,err:=e.Eval(vars()); runtime.ReadMemStats(&b)
  t.Logf("%s: %.20q %v %d MB",x,g,err,(b.TotalAlloc-a.TotalAlloc)>>20)
 }
}

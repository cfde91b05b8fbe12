// Isotherm for browsers. Apache-2.0. How to use it: clients/javascript/README.md
function isotherm(base,o){
const seen=new Set(),receipts=[]
let source,abort,timer,closed,cursor=o.after,failures=0
const state=s=>o.onstate?.(s)
const now=()=>new Date().toISOString()
const url=(path,more)=>{
const query=new URLSearchParams
for(const topic of more?o.topics:[])query.append('topic',topic)
const values={token:o.token,...more&&{group:o.group,device:o.device},...more}
for(const name in values)if(values[name] !=null)query.set(name,values[name])
return `${base}/v1/${path}?${query}`
}
const take=(id,type,data)=>{
if(type !='isotherm.reset'){
if(seen.has(id))return
if(seen.add(id).size>500)seen.delete(seen.values().next().value)
if(o.receipts&&receipts.length<5000)
receipts.push({id,received_at:now()})
}
cursor=id
o.onevent({id,type,data})
}
const poll=async wait=>{
abort=new AbortController
const answer=await fetch(url('events',{after:cursor,wait:wait+'s',limit:100}),
{headers:{Accept:'application/json'},signal:abort.signal})
if(!answer.ok)throw answer.status
const{reset,events,next}=await answer.json()
if(reset)take(next,'isotherm.reset',reset)
for(const e of events)take(e.id,e.type??'message',e.data??atob(e.data_base64))
cursor=next
return events.length
}
const stop=()=>{source?.close();abort?.abort();clearTimeout(timer)}
const again=()=>{
stop()
if(closed)return
state('waiting')
timer=setTimeout(start,Math.min(3e4,1e3*2**failures++)*(0.5+Math.random()))
}
const watch=()=>{
clearTimeout(timer)
timer=setTimeout(()=>poll(0).then(found=>found?again():watch(),again),o.idle??45e3)
}
const fallBack=async()=>{
source.close()
state('polling')
try{while(!closed){await poll(25);failures=0}}catch{again()}
}
const start=async()=>{
try{if(cursor==null)await poll(0)}catch{return again()}
if(closed)return
state('connecting')
source=new EventSource(url('events',{'last-event-id':cursor,hello:1}))
timer=setTimeout(fallBack,2500)
source.onerror=again
source.addEventListener('isotherm.hello',()=>{failures=0;state('streaming');watch()})
for(const type of ['message','isotherm.reset',...o.types??[]])
source.addEventListener(type,e=>{watch();take(e.lastEventId,type,e.data)})
}
const report=()=>{
const batch=receipts.splice(0,400)
if(batch[0])fetch(url('receipts'),{
method:'POST',keepalive:true,headers:{'Content-Type':'application/json'},
body:JSON.stringify({device:o.device,group:o.group,receipts:batch,sent_at:now()})
}).then(a=>{if(a.status==429||a.status>499)throw 0}).catch(()=>receipts.unshift(...batch))
}
const reporting=setInterval(report,2e3)
addEventListener('pagehide',report)
start()
return{close(){closed=1;stop();clearInterval(reporting);report();state('closed')}}
}
